"""The HTTP side of the gateway: what every route shares, whichever protocol it speaks."""
