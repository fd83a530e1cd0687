-- When the newest certificate of a node ends.
ALTER TABLE node ADD COLUMN certificate_end INTEGER;
