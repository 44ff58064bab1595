"""Networks of other libraries than timm, one module per library."""
