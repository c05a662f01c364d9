"""Why a response has its reward: by gradients, and by leaving words out."""
