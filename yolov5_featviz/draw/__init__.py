"""Draw feature maps as pictures, without pyplot; files are written only by ``Picture.save``."""
