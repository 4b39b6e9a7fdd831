package harness

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/weirhq/weir/internal/testutil"
)

// The keys of a Bucket's server. All is allowed to the owner of these.
const (
	BucketKey    = "weir-test"
	BucketSecret = "weir-test-secret"
)

// The keys of a user of a Bucket, to whom nothing is allowed but by Bucket.Allow.
const (
	BucketUser       = "weir-user"
	BucketUserSecret = "weir-user-secret"
)

// Bucket is a server of an object store, with one bucket that is named "mirror".
type Bucket struct {
	URL string
	Dir string // the objects of the bucket as files, by their keys
	// Owner may do all, straight at the server.
	Owner *minio.Client
	*Process
}

const bucketRegion = "us-east-1"

// StartBucket starts versitygw, which keeps objects as files, and makes a bucket.
func StartBucket(t *testing.T) *Bucket {
	t.Helper()
	program := Tool(t, "s3", "versitygw")
	dir, addr := t.TempDir(), testutil.FreeAddr(t)
	b := &Bucket{URL: "http://" + addr, Dir: filepath.Join(dir, "objects", "mirror")}
	for _, made := range []string{b.Dir, filepath.Join(dir, "metadata"), filepath.Join(dir, "users")} {
		Must(t, os.MkdirAll(made, 0o750))
	}
	WriteFile(t, filepath.Join(dir, "users", "users.json"), fmt.Sprintf(
		`{"accessAccounts": {%q: {"access": %[1]q, "secret": %q, "role": "user"}}}`, BucketUser, BucketUserSecret))
	owner, err := minio.New(addr, &minio.Options{Creds: credentials.NewStaticV4(BucketKey, BucketSecret, ""), Region: bucketRegion})
	Must(t, err)
	b.Owner = owner
	b.Process = NewProcess(t, "versitygw", func() *exec.Cmd {
		// Metadata in files of their own: not each filesystem has extended attributes.
		return exec.Command(program, "--access", BucketKey, "--secret", BucketSecret, "--port", addr, "--quiet", "--keep-alive",
			"--iam-dir", filepath.Join(dir, "users"),
			"posix", "--sidecar", filepath.Join(dir, "metadata"), filepath.Join(dir, "objects"))
	}, func(io.Reader) bool {
		for begun := time.Now(); time.Since(begun) < Patience; time.Sleep(20 * time.Millisecond) {
			if answer, err := http.Get(b.URL); err == nil {
				answer.Body.Close()
				return true
			}
		}
		return false
	})
	b.Start()
	return b
}

// Allow lets the user do all in the bucket but some actions of S3, such as s3:DeleteObject. It
// replaces the earlier permissions at once.
func (b *Bucket) Allow(t *testing.T, but ...string) {
	t.Helper()
	statement := func(effect string, actions ...string) map[string]any {
		return map[string]any{
			"Effect": effect, "Action": actions, "Principal": BucketUser,
			"Resource": []string{"arn:aws:s3:::mirror", "arn:aws:s3:::mirror/*"},
		}
	}
	statements := []map[string]any{statement("Allow", "s3:*")}
	if len(but) > 0 {
		statements = append(statements, statement("Deny", but...))
	}
	policy, err := json.Marshal(map[string]any{"Version": "2012-10-17", "Statement": statements})
	if err == nil {
		err = b.Owner.SetBucketPolicy(t.Context(), "mirror", string(policy))
	}
	if err != nil {
		t.Errorf("the policy of the bucket: %v", err)
	}
}

// Config is the table of the bucket in a configuration, with further settings, one line
// each. It has the keys of the owner.
func (b *Bucket) Config(settings string) string {
	return b.config(BucketKey, BucketSecret, settings)
}

// UserConfig is Config with the keys of the user.
func (b *Bucket) UserConfig(settings string) string {
	return b.config(BucketUser, BucketUserSecret, settings)
}

func (b *Bucket) config(key, secret, settings string) string {
	return fmt.Sprintf("[blob_store.s3]\nendpoint = %q\nbucket = \"mirror\"\nregion = %q\naccess_key_id = %q\nsecret_key = %q\n%s\n",
		b.URL, bucketRegion, key, secret, settings)
}
