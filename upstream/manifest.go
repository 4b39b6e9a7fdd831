package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/oci"
)

// Manifest reads a manifest by tag or digest, and verifies it against a digest. It
// returns an error of [ClassUnavailable] that wraps [ErrDigestMismatch],
// [oci.ErrSchema1] or [oci.ErrManifestTooLarge] if the answer is not a usable
// manifest.
func (c *Client) Manifest(ctx context.Context, repo string, ref oci.Reference) (*oci.Manifest, error) {
	call := manifestCall(http.MethodGet, repo, ref)
	resp, err := c.do(ctx, call)
	if err != nil {
		c.noteMissing(ctx, repo, ref, err)
		return nil, err
	}
	defer resp.Body.Close()
	body, err := readAll(ctx, resp, c.maxManifestSize, fmt.Errorf("%w: more than %d bytes", oci.ErrManifestTooLarge, c.maxManifestSize))
	if err == nil {
		m := &oci.Manifest{Upstream: c.host}
		err = eitherWay(resp.Header, body, c.maxManifestSize, func(body []byte) (err error) {
			m.Body = body
			m.Descriptor, err = describe(body, ref, resp.Header.Get("Content-Type"))
			return err
		})
		inARow(&c.tally.strange, errors.Is(err, errNoManifest))
		if err == nil {
			return m, nil
		}
	}
	if errors.Is(err, ErrDigestMismatch) {
		c.reject(ref.Digest())
		c.metrics.mismatch()
	}
	err = c.badAnswer(ctx, call, err)
	c.noteMissing(ctx, repo, ref, err)
	return nil, err
}

func manifestCall(method, repo string, ref oci.Reference) call {
	return call{op: opManifest, limit: ofManifests, method: method, repo: repo, reference: ref.String(), path: "/manifests/" + ref.String(),
		header: http.Header{"Accept": {ref.Accept()}}}
}

var errNoManifest = errors.New("the answer is not a manifest")

// describe makes the descriptor of a manifest, and verifies the body if ref is a
// digest.
func describe(body []byte, ref oci.Reference, contentType string) (ocispec.Descriptor, error) {
	dgst := digest.FromBytes(body)
	if promised := ref.Digest(); promised != "" {
		// With the algorithm of the reference, which may be SHA-512.
		if dgst = promised.Algorithm().FromBytes(body); dgst != promised {
			return ocispec.Descriptor{}, fmt.Errorf("%w: it has %s", ErrDigestMismatch, dgst)
		}
	}
	mediaType, err := oci.ManifestType(body, contentType)
	switch {
	case errors.Is(err, oci.ErrSchema1):
		return ocispec.Descriptor{}, err
	case err != nil:
		return ocispec.Descriptor{}, fmt.Errorf("%w: %w", errNoManifest, err)
	}
	return ocispec.Descriptor{MediaType: mediaType, Digest: dgst, Size: int64(len(body))}, nil
}

// readAll reads a body of at most limit bytes, or fails with tooLarge.
func readAll(ctx context.Context, resp *http.Response, limit int64, tooLarge error) ([]byte, error) {
	if resp.ContentLength > limit {
		return nil, tooLarge // without reading up to the limit first
	}
	body, err := io.ReadAll(io.LimitReader(newDocument(ctx, resp.Body), limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading the body: %w", err)
	}
	if int64(len(body)) > limit {
		return nil, tooLarge
	}
	return body, nil
}

// badAnswer is the failure of an answer whose headers were fine and whose body
// is not. It is counted, unless ctx is done.
func (c *Client) badAnswer(ctx context.Context, call call, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	c.metrics.broken(call.op)
	call.sender = c.loginOf(ctx)
	return c.identify(asError(err), call)
}
