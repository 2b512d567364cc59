"""One function per question: load, analyse, return a Result."""
