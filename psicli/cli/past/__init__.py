"""The commands that show what runs and what ran: status, ledger, history, report and ui."""
