package fleet

import (
	"fmt"
	"net/url"
	"sync/atomic"
	"testing"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/s3"
	"github.com/weirhq/weir/storage/spool"
	"github.com/weirhq/weir/storage/storagetest"
	"github.com/weirhq/weir/tests/harness"
)

// The driver behaves against a real server as storage wants it, below a prefix of all odd characters
// that are allowed.
func TestDriverOnRealServer(t *testing.T) {
	t.Parallel()
	bucket := harness.StartBucket(t)
	var drivers atomic.Int64
	storagetest.Run(t, func(t *testing.T) storage.Driver {
		return open(t, bucket, fmt.Sprintf("mirrors=1/._-/%d", drivers.Add(1)))
	})
}

func open(t *testing.T, bucket *harness.Bucket, prefix string) *s3.Store {
	t.Helper()
	endpoint, err := url.Parse(bucket.URL)
	if err != nil {
		t.Fatal(err)
	}
	store, err := s3.New(s3.Options{
		Endpoint: endpoint, Bucket: "mirror", Region: "us-east-1", KeyPrefix: prefix,
		AccessKeyID: harness.BucketKey, SecretKey: harness.BucketSecret,
		Spools: spool.NewDir(t.TempDir(), 0, nil),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return store
}
