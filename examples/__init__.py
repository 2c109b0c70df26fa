"""Small programs that put the transform to work outside of this project's own stream; each is run by the tests."""
