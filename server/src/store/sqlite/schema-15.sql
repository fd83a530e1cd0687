-- What an app ran before its last update, which it goes back to when that does not succeed. The job is named by its
-- identifier, and kept, as the one that removes the app is.
ALTER TABLE app ADD COLUMN previous_job TEXT;
ALTER TABLE app ADD COLUMN previous_attempt INTEGER;
ALTER TABLE app ADD COLUMN previous_revision INTEGER;
-- The greatest revision that was ever given: one that was gone back from is not used again.
ALTER TABLE app ADD COLUMN last_revision INTEGER NOT NULL DEFAULT 0;
UPDATE app SET last_revision = revision;
