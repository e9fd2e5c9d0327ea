"""What is said about models: a report beside each, a catalogue of all, and a comparison with the documents."""
