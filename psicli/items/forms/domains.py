"""The e-mail providers that ignore a part of an address."""

# Gmail ignores dots; all of these ignore a plus and what follows it.
GMAIL = ("gmail.com", "googlemail.com")
WITH_TAGS = (
    *GMAIL, "outlook.com", "hotmail.com", "live.com", "msn.com", "icloud.com", "me.com", "mac.com", "fastmail.com",
    "fastmail.fm", "proton.me", "protonmail.com", "pm.me",
)  # fmt: skip
