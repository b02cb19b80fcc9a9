//! conprof's happens-before detector.
