"""To the Hub and back: layout and card of a repository, the push, verification, reproduction, signatures."""
