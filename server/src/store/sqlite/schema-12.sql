-- When a user's newest certificate is issued: it may live shorter than the user's certificates usually do, since none outlives
-- the authority.
ALTER TABLE user ADD COLUMN issue_time INTEGER NOT NULL DEFAULT 0;

UPDATE user SET issue_time = certificate_end - life * 1000000;
