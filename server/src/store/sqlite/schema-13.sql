-- Nodes that are away for long give their places to others. Jobs of before are given the time of those that name none.

ALTER TABLE job ADD COLUMN absent_after INTEGER NOT NULL DEFAULT 60000000000;
ALTER TABLE job ADD COLUMN absent INTEGER NOT NULL DEFAULT 0;
ALTER TABLE task ADD COLUMN absent_time INTEGER;

-- Tasks that are set aside, for the node that comes back.
CREATE INDEX task_absent ON task (node) WHERE absent_time IS NOT NULL;
