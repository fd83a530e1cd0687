-- Final jobs by when they ended, for those that are kept no longer.
CREATE INDEX job_by_end ON job (end_time) WHERE end_time IS NOT NULL;
