"""Pairs of sentences, from the same thing said twice to nothing in common, for `quantizing.py`."""

PAIRS = (
    # said twice
    ("The library is closed on Monday.", "On Mondays the library does not open."),
    ("My phone's battery is empty.", "I have no charge left on my mobile."),
    ("How do I reset my password?", "I forgot my password and need a new one."),
    ("The train to Lyon leaves at nine.", "At 9 o'clock there is a train going to Lyon."),
    ("She taught herself to play the cello.", "She learned the cello without a teacher."),
    ("Prices rose by three percent last year.", "Last year things became 3 % more expensive."),
    ("Please turn the volume down.", "Could you make it quieter?"),
    ("The doctor told him to rest for a week.", "He was advised by his physician to take seven days off."),
    ("Nobody answered when I rang the bell.", "I rang, but no one came to the door."),
    ("It will rain all afternoon.", "Expect showers until the evening."),
    # about the same thing
    ("The library is closed on Monday.", "The library has bought two hundred new books."),
    ("A dog chases a ball across the lawn.", "The puppy is asleep on the carpet."),
    ("The train to Lyon leaves at nine.", "Railway workers announced a strike for Friday."),
    ("She taught herself to play the cello.", "The orchestra is looking for a second violin."),
    ("Water boils at a hundred degrees.", "Ice melts more slowly in the shade."),
    ("The bank raised its interest rate.", "I opened a savings account yesterday."),
    ("He repaired the roof before winter.", "The kitchen needs a new coat of paint."),
    ("The soup needs more salt.", "Add the onions and let them brown."),
    ("Our flight was delayed by two hours.", "The airport has opened a third runway."),
    ("The patient was given antibiotics.", "The hospital hired forty nurses."),
    # the same words, another meaning
    ("He sat on the bank of the river.", "He works in a bank near the river."),
    ("The bat flew out of the cave.", "He swung the bat and missed the ball."),
    ("The dog bit the man.", "The man bit the dog."),
    ("I like this film a lot.", "I do not like this film at all."),
    ("The meeting was moved from May to June.", "The meeting was moved from June to May."),
    ("Cut the rope before you climb.", "Climb the rope before you cut it."),
    # nothing in common
    ("The library is closed on Monday.", "Whales breathe air."),
    ("My phone's battery is empty.", "The treaty was signed in 1648."),
    ("Prices rose by three percent last year.", "A spider has eight legs."),
    ("Please turn the volume down.", "The vineyard lies on a southern slope."),
    ("Nobody answered when I rang the bell.", "Photosynthesis needs light."),
    ("The soup needs more salt.", "The court dismissed the appeal."),
    ("Our flight was delayed by two hours.", "Marble is cut with diamond saws."),
    ("She taught herself to play the cello.", "Rust forms where iron meets damp air."),
    ("It will rain all afternoon.", "The compiler inlines small functions."),
    ("A dog chases a ball across the lawn.", "Parliament debates the budget tomorrow."),
)
