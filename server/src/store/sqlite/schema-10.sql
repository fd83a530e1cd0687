-- What a job does on its nodes.
ALTER TABLE job ADD COLUMN kind INTEGER NOT NULL DEFAULT 0;
-- Identifier of the job that removes the app, where one does. No reference, which would be looked for in every app whenever
-- a job is deleted: a job that is named here is kept.
ALTER TABLE app ADD COLUMN remover TEXT;
