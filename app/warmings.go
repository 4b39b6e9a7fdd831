package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/namespace/ondemand"
	"github.com/weirhq/weir/storage/disk"
	"github.com/weirhq/weir/storage/spool"
)

// warmer notes the sender of a request in the job that it starts.
type warmer struct{ *ondemand.Runner }

// Start starts a job.
func (w warmer) Start(ctx context.Context, images []ondemand.Image, platforms []ocispec.Platform) (ondemand.Job, error) {
	sender, _ := ctx.Value(senderKey{}).(string)
	return w.Runner.Start(ondemand.Order{Images: images, Platforms: platforms, By: sender[:min(len(sender), maxSender)]})
}

// openToWarm returns how jobs find their repositories. A job reads the cache as Weir's own warming
// does, so that it counts as no pull of a client.
func openToWarm(tables *namespace.Current) func(name string) (ondemand.Repository, error) {
	return func(name string) (ondemand.Repository, error) {
		ns, below, err := tables.Load().Resolve("", name)
		switch {
		case err != nil:
			return ondemand.Repository{}, fmt.Errorf("%s is no longer mirrored. Check the repository blocks of the configuration", name)
		// The block may have become one since the job was started.
		case ns.OnBehalf():
			return ondemand.Repository{}, errors.New("only the upstream knows which clients may read it, so the mirror cannot warm it")
		}
		_, source := ns.Warm(ns.Key() + "/" + below)
		return ondemand.Repository{
			Source: source, MaxManifest: ns.MaxManifest(),
			Explain: func(err error) string { return explainWarming(ns, err) },
		}, nil
	}
}

// explainWarming returns what clients are told about the failure of a warming: of failures of the
// store, no paths and no users.
func explainWarming(ns *namespace.Namespace, err error) string {
	_, isDisk := errors.AsType[*disk.Error](err)
	_, isPath := errors.AsType[*fs.PathError](err)
	_, isLink := errors.AsType[*os.LinkError](err)
	if isDisk || isPath || isLink || errors.Is(err, spool.ErrNoSpace) {
		return "the content cannot be stored: " + public(err)
	}
	return explain(ns, err)
}
