-- Lists in other orders than their own: each index has what two items can have in common, then what they cannot.

-- The name that the job's spec gives.
ALTER TABLE job ADD COLUMN spec_name TEXT NOT NULL DEFAULT '';

UPDATE job SET spec_name = coalesce(
    (SELECT json_extract(job_spec.model, '$.name') FROM job_spec WHERE job_spec.job = job.key), '');

CREATE INDEX job_by_creation ON job (create_time, id);
CREATE INDEX job_by_app ON job (app, id);
CREATE INDEX job_by_spec_name ON job (spec_name, id);
CREATE INDEX node_by_enrolment ON node (enroll_time, name);
CREATE INDEX token_by_creation ON token (create_time, id);
