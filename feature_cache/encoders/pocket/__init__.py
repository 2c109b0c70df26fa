"""The pocket encoders: small pretrained networks whose weights come inside packages."""
