"""How sure a chosen word is: probabilities, how true they are, and when to leave a word out."""
