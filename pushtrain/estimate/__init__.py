"""What a job will need, before anything is rented: memory, time, dollars. Pure; nothing here imports torch."""
