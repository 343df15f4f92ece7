"""What a program does with its time: profiles, and reports of them."""
