// Package fleet holds the tests of mirrors that share a bucket, a Redis or both: the real binary
// against a real object store, a real Redis and real clients, and against a scripted object store
// (storage/s3/s3test) where a fault is to be caused.
//
// tier_test.go, eviction_test.go, gc_test.go and verify_test.go have one bucket and its local
// tiers, faults_test.go its faults; replicas_test.go, replica_faults_test.go, redis_test.go and
// versions_test.go have replicas that follow each other's downloads.
package fleet
