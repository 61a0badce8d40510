"""The online half of Lifeguard: everything that answers HTTP. Never imports torch."""
