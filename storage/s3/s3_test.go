package s3_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/s3"
	"github.com/weirhq/weir/storage/s3/s3test"
	"github.com/weirhq/weir/storage/spool"
	"github.com/weirhq/weir/storage/storagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open opens the bucket of a server. change may be nil.
func open(t *testing.T, server *s3test.Server, change func(*s3.Options)) *s3.Store {
	t.Helper()
	opts := s3.Options{
		Endpoint: server.Endpoint(t), Bucket: s3test.Bucket, Region: "us-east-1", KeyPrefix: "mirrors/weir",
		AccessKeyID: "key", SecretKey: "secret", MaxAttempts: 1, Spools: spool.NewDir(t.TempDir(), 0, nil),
	}
	if change != nil {
		change(&opts)
	}
	store, err := s3.New(opts)
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

func TestConformance(t *testing.T) {
	for name, prefix := range map[string]string{"a prefix": "mirrors/weir", "no prefix": ""} {
		t.Run(name, func(t *testing.T) {
			storagetest.Run(t, func(t *testing.T) storage.Driver {
				return open(t, s3test.New(t), func(o *s3.Options) { o.KeyPrefix = prefix })
			})
		})
	}
}
