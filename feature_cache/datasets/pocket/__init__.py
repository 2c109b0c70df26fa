"""The pocket suite: eight datasets of real media that come inside packages, and the tools around them."""
