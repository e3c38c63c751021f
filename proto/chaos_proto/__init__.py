"""The wire contract of the project and what both its ends share: identities, channels, PKI."""
