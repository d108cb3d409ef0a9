"""WHAT flows in: files, frames and rows become one `Table`; tables are split; rows are planned into batches."""
