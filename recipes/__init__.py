"""Studies that anyone can run again; README.md beside this file lists them."""
