"""What the demo's visitors say: two real ones, some spam, and one that comes while Akismet is busy."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Visit:
    """One comment, and whether it is spam."""

    name: str
    email_address: str
    comment: str
    is_spam: bool


VISITS = (
    Visit("George", "george@example.com", "Well said.", False),
    Visit("viagra-test-123", "v@example.com", "Cheap pills, click here!", True),
    Visit("Ringo", "ringo@example.com", "I was busy and read it only now.", False),
    Visit("Casino", "akismet-guaranteed-spam@example.com", "You have won.", True),
    Visit("viagra-test-123", "w@example.com", "Do not be too busy for this offer!", True),
    Visit("Paul", "paul@example.com", "Where is the next part?", False),
)
