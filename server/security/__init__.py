"""Who may reach the gateway, who calls it, and what they may do: TLS, tokens and grants."""
