-- What the call is called that created the job, or last retried or resumed it.
ALTER TABLE job_spec ADD COLUMN cause TEXT;
