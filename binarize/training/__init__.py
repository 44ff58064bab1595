"""Training and evaluation of dense-prediction networks by recipes."""
