"""What a participant computes on its own data: models, readers, scaling, optimisers, the model payload.

Only numpy is needed here. scikit-learn is imported by `data.load_digits` alone, when it is called, because
an owner's process must not pay for that import.
"""
