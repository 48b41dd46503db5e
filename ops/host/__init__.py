"""Host ops: functions from Arrow arrays to an Arrow array, one file per kind of value."""
