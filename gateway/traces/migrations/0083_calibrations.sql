-- How often a judge is right, measured against labels from people: one row for each calibration, the newest of a judge
-- and version in force. NULL is what was not measured. `injected` is the share of injection cases that passed as good;
-- `report` is JSON of everything else. Kept for good: what a judge was allowed to do must be explainable later.
CREATE TABLE IF NOT EXISTS calibrations
(
    calibration_id     String,
    judge              String,
    version            LowCardinality(String),
    calibrated_at      DateTime64(6, 'UTC'),
    labels             UInt32,
    source             LowCardinality(String),
    j                  Nullable(Float64),
    j_low              Nullable(Float64),
    tpr                Nullable(Float64),
    tpr_low            Nullable(Float64),
    tpr_high           Nullable(Float64),
    tnr                Nullable(Float64),
    tnr_low            Nullable(Float64),
    tnr_high           Nullable(Float64),
    kappa              Nullable(Float64),
    kappa_low          Nullable(Float64),
    kappa_high         Nullable(Float64),
    flip_rate          Nullable(Float64),
    order_consistency  Nullable(Float64),
    length_correlation Nullable(Float64),
    injected           Nullable(Float64),
    problems           Array(String),
    report             String CODEC(ZSTD(3))
)
ENGINE = MergeTree
ORDER BY (judge, version, calibrated_at, calibration_id)
SETTINGS non_replicated_deduplication_window = 1000;
