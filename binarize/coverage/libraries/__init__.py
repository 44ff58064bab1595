"""Networks of other libraries than timm, one module of them for each library."""
