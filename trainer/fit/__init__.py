"""Whether a training fits the card: estimated before torch is imported, tried before its first step, made smaller."""
