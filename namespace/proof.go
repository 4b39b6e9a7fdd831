package namespace

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/upstream"
)

// A hostile upstream answers 200 to every HEAD. Before a repository gets a blob that
// another one brought, its own upstream therefore has to show bytes of it:
//
//	64 KiB at most    all bytes
//	larger            4 KiB at a random offset, and the last 1 KiB
//	still arriving    the last 4 KiB that have arrived; later as above
//
// Their length and their place are chosen here, and they are compared with the stored
// bytes. If the upstream does not show them, because they differ, or it has no ranges, the
// repository downloads the blob for itself, and the digest decides about that: a registry
// with a quirk costs a transfer, and a liar gains nothing.

const (
	// maxWhole is how large a blob is at most that is compared as a whole: configs,
	// and about as many bytes as the headers of the two requests that it saves.
	maxWhole = 64 << 10
	// randomSample is long enough that no guess hits it, whatever the kind of content.
	randomSample = 4 << 10
	// tailSample is behind the bytes that an interrupted download has.
	tailSample = 1 << 10
)

// errNotShown says that an upstream did not show the bytes of a blob, without a refusal.
var errNotShown = errors.New("the upstream did not send the bytes of the blob")

// sample is a part of a blob.
type sample struct {
	offset int64
	bytes  []byte
	whole  bool // the blob has no other bytes
}

// prove makes a repository's upstream show that it has a blob, of which content has the
// first have bytes; size is that of the whole, -1 if it is not known. If content is
// whole, prove records that the repository may serve the blob, unless images were removed from
// it since removals.of returned removed. It returns errNotShown, or the upstream's refusal.
func (n *Namespace) prove(ctx context.Context, repo storage.RepoID, dgst digest.Digest, content io.ReadSeeker, have, size int64, removed uint64) error {
	// Another reader of the repository may have proven it meanwhile.
	if _, possessed := n.link(ctx, repo, dgst); possessed {
		return nil
	}
	op := proveBegun
	if have == size {
		op = proveWhole
	}
	// Before the lookup, which outlives this caller and its content.
	samples, err := takeSamples(content, have, size)
	if err != nil {
		return fmt.Errorf("reading a blob for a comparison: %w", err)
	}
	_, _, err = share(ctx, n, n.cache.access, lookupKey{repo, op, oci.ByDigest(dgst)}, nil, func(ctx context.Context) (none ocispec.Descriptor, err error) {
		err = n.shown(ctx, repo, dgst, samples, size)
		n.rememberNegative(ctx, blobKey(repo, dgst), err)
		if err == nil && op == proveWhole {
			n.cache.putLinkSince(ctx, repo, ocispec.Descriptor{Digest: dgst, Size: size}, removed)
		}
		return none, err
	})
	return err
}

// takeSamples reads the parts of a blob that its upstream has to show.
func takeSamples(content io.ReadSeeker, have, size int64) ([]sample, error) {
	length := min(have, randomSample)
	samples := []sample{{offset: rand.Int64N(have - length + 1), bytes: make([]byte, length)}}
	switch {
	// Of a running download the last bytes that arrived: a beginning that is known from
	// elsewhere must not be enough for the rest.
	case have != size:
		samples[0].offset = have - length
	case have == size && size <= maxWhole:
		samples = []sample{{bytes: make([]byte, size), whole: true}}
	case have == size:
		samples = append(samples, sample{offset: size - tailSample, bytes: make([]byte, tailSample)})
	}
	for _, s := range samples {
		if _, err := content.Seek(s.offset, io.SeekStart); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(content, s.bytes); err != nil {
			return nil, err
		}
	}
	return samples, nil
}

// shown compares parts of a blob with those that the upstream has.
func (n *Namespace) shown(ctx context.Context, repo storage.RepoID, dgst digest.Digest, samples []sample, size int64) error {
	told := false // the upstream gave the size
	for _, s := range samples {
		its, err := n.compare(ctx, repo, dgst, s)
		switch {
		case err != nil:
			return err
		case its >= 0 && size >= 0 && its != size:
			return fmt.Errorf("%w: it has %d bytes instead of %d", errNotShown, its, size)
		}
		told = told || its >= 0 || s.whole
	}
	// A length is part of each proof of a whole blob.
	if !told && len(samples) > 1 {
		return fmt.Errorf("%w: its answer has no size", errNotShown)
	}
	return nil
}

// compare asks the upstream for one part, and returns the size of the whole blob that
// the answer gives, or -1.
func (n *Namespace) compare(ctx context.Context, repo storage.RepoID, dgst digest.Digest, s sample) (size int64, err error) {
	length := int64(len(s.bytes))
	if s.whole {
		length = -1 // without Range, which some registries do not know
	}
	body, err := n.spec.Upstreams.Blob(oci.WithSample(ctx), repo.Name, dgst, s.offset, length)
	if err != nil {
		return 0, refusalOf(err)
	}
	defer body.Close()
	// One byte more than expected shows that the whole is longer.
	shown, err := io.ReadAll(io.LimitReader(body, int64(len(s.bytes))+1))
	switch {
	case err != nil:
		return 0, refusalOf(err)
	case !bytes.Equal(shown, s.bytes):
		n.logger.Warn("an upstream does not have the bytes of a blob that another repository has. The blob is downloaded from that upstream, and compared with its digest",
			"upstream", body.Upstream(), "repository", repo.String(), "digest", dgst)
		return 0, fmt.Errorf("%w: they differ", errNotShown)
	}
	return body.Size(), nil
}

// refusalOf returns a failed request for a part of a blob as errNotShown if the request
// for the whole may succeed: the upstream or its proxy does not know ranges, or its blob
// is too short. No request leads out of a loop.
func refusalOf(err error) error {
	failed, ok := errors.AsType[*upstream.Error](err)
	if ok && (errors.Is(err, oci.ErrNoRange) || failed.Status == http.StatusRequestedRangeNotSatisfiable ||
		failed.Class == upstream.ClassUnavailable && failed.Answered() && !failed.Loop()) {
		return fmt.Errorf("%w: %w", errNotShown, err)
	}
	return err
}
