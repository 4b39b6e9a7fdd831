package keepwarm

import (
	"context"
	"fmt"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/warm"
)

// Image is an image to keep in the cache.
type Image struct {
	Name      string // with or without the namespace's key before it
	Reference oci.Reference
	Every     time.Duration
	Platforms []ocispec.Platform // platforms wanted of an index; none means all
	Referrers bool               // signatures, SBOMs and other referrers are wanted, too
}

// Namespace is a namespace as a Warmer sees it.
type Namespace interface {
	Key() string
	// Images are the images to keep warm. There are none while the namespace is
	// offline.
	Images() []Image
	// MaxManifest is the largest manifest that the namespace serves, in bytes.
	MaxManifest() int64
	// Warm reads a repository through the cache, by the name that an Image has.
	Warm(name string) (storage.RepoID, warm.Source)
}

// scheduled is the state of one image's schedule. The Warmer's mutex guards it,
// but for the fields that never change.
type scheduled struct {
	Image
	repo   storage.RepoID
	wanted time.Time // since when

	namespace Namespace // of the latest Apply
	due       time.Time
	succeeded time.Time
	failures  int                // since the last success
	cancel    context.CancelFunc // set while the image is being warmed
	gone      bool               // the latest Apply does not want it
}

// identity distinguishes images. Two images are the same, and share a schedule,
// only if all of it is equal. It holds the repository and not its printed name,
// because two repositories can be printed alike.
type identity struct {
	repo      storage.RepoID
	reference oci.Reference
	every     time.Duration
	platforms string
	referrers bool
}

func (i *scheduled) identity() identity {
	return identity{i.repo, i.Reference, i.Every, fmt.Sprintf("%q", i.Platforms), i.Referrers}
}

// String names the image for the log.
func (i *scheduled) String() string {
	return i.Reference.Join(i.repo.String())
}

// run is the key of the job that warms an image. The number distinguishes it from an
// earlier run of the same image that was cancelled and has not ended yet.
type run struct {
	identity
	number int
}

func (r run) Block() string { return r.repo.Namespace }

func (r run) String() string { return "warm " + r.reference.Join(r.repo.String()) }
