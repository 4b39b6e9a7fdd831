package upstream

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/oci"
)

const (
	// noHeadTime is how long a registry whose HEAD proved useless is asked with GET
	// alone. A GET may count against a rate limit, so a HEAD is tried again at last.
	noHeadTime = 10 * time.Minute
	// maxNamed bounds how many digests are remembered that HEADs named, and
	// namedTime for how long: about as long as a pull takes to ask for them.
	maxNamed  = 1024
	namedTime = 10 * time.Minute
)

// Head asks which manifest a tag or digest names. The Body is nil, the MediaType
// empty and the Size -1 if the registry answered a HEAD and did not tell them.
//
// A HEAD is believed only if it says yes, in the terms of a registry. Some
// registries and proxies refuse a HEAD although they answer the GET, and others name
// no digest or answer with a web page. One GET decides then, and the manifest has a
// Body. For the next ten minutes the registry is asked with GETs alone.
func (c *Client) Head(ctx context.Context, repo string, ref oci.Reference) (*oci.Manifest, error) {
	if !c.manifestHead.usable() {
		return c.Manifest(ctx, repo, ref)
	}
	desc, err := c.head(ctx, manifestCall(http.MethodHead, repo, ref), ref)
	switch {
	case err == nil:
		if ref.IsTag() {
			c.named.add(named{c.loginOf(ctx).client, repo, desc.Digest})
		}
		return &oci.Manifest{Descriptor: desc, Upstream: c.host}, nil
	case !answered(err) || looped(err):
		c.noteSilence(&c.manifestHead, opManifest, err)
		return nil, err
	}
	m, err := c.Manifest(ctx, repo, ref)
	if err == nil {
		c.distrust(&c.manifestHead, opManifest)
	}
	return m, err
}

// errVagueHead says that the answer to a HEAD does not tell the manifest.
var errVagueHead = errors.New("the answer to HEAD does not name a manifest")

// errPage says that an answer is a page for browsers.
var errPage = errors.New("the answer is a web page")

// head sends the HEAD of a manifest and returns the descriptor that it gives.
func (c *Client) head(ctx context.Context, call call, ref oci.Reference) (ocispec.Descriptor, error) {
	resp, err := c.do(ctx, call)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK { // a part of the manifest, which was not asked for
		return ocispec.Descriptor{}, c.identify(&Error{Class: ClassUnavailable, Err: errVagueHead}, call)
	}
	desc := ocispec.Descriptor{MediaType: oci.MediaType(resp.Header.Get("Content-Type")), Digest: ref.Digest(), Size: lengthOf(resp)}
	// A digest of an algorithm that cannot be stored is as vague as none.
	if dgst, err := oci.ParseDigest(resp.Header.Get("Docker-Content-Digest")); err == nil && ref.IsTag() {
		desc.Digest = dgst // by digest the header says nothing new, whatever it says
	}
	if desc.Digest == "" || desc.MediaType != "" && !oci.IsManifestType(desc.MediaType) {
		return ocispec.Descriptor{}, c.identify(&Error{Class: ClassUnavailable, Err: errVagueHead}, call)
	}
	return desc, nil
}

// StatBlob asks whether there is a blob, and for its size. If the registry refuses a
// HEAD, or answers it without a length or with a web page, the GET of the first byte
// decides, as it does for the next ten minutes. The Size is -1 if even that does not
// tell it.
func (c *Client) StatBlob(ctx context.Context, repo string, dgst digest.Digest) (ocispec.Descriptor, error) {
	desc, err := c.statBlob(ctx, repo, dgst)
	if err != nil {
		return desc, err
	}
	// A client that sees the size would ask for the blob.
	if err := c.checkSize(desc.Size); err != nil {
		return ocispec.Descriptor{}, c.badAnswer(ctx, blobCall(http.MethodHead, repo, dgst, ""), err)
	}
	return desc, nil
}

func (c *Client) statBlob(ctx context.Context, repo string, dgst digest.Digest) (ocispec.Descriptor, error) {
	if !c.blobHead.usable() {
		return c.firstByte(ctx, repo, dgst)
	}
	desc, err := c.headBlob(ctx, repo, dgst)
	switch {
	case err == nil:
		return desc, nil
	case !answered(err) || looped(err):
		c.noteSilence(&c.blobHead, opBlob, err)
		return ocispec.Descriptor{}, err
	}
	desc, err = c.firstByte(ctx, repo, dgst)
	if err == nil {
		c.distrust(&c.blobHead, opBlob)
	}
	return desc, err
}

func blobDescriptor(dgst digest.Digest) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: "application/octet-stream", Digest: dgst, Size: -1}
}

// headBlob asks for a blob's size with a HEAD.
func (c *Client) headBlob(ctx context.Context, repo string, dgst digest.Digest) (ocispec.Descriptor, error) {
	call := blobCall(http.MethodHead, repo, dgst, "")
	resp, err := c.do(ctx, call)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	resp.Body.Close()
	desc := blobDescriptor(dgst)
	desc.Size = lengthOf(resp)
	// Some registries say 0 when they do not know, and 206 has the length of a part.
	if resp.StatusCode != http.StatusOK || desc.Size < 0 || desc.Size == 0 && dgst != dgst.Algorithm().FromBytes(nil) || isPage(resp.Header) {
		return ocispec.Descriptor{}, c.identify(&Error{Class: ClassUnavailable, Err: errVagueHead}, call)
	}
	return desc, nil
}

// firstByte asks for a blob's size with the GET of its first byte.
func (c *Client) firstByte(ctx context.Context, repo string, dgst digest.Digest) (ocispec.Descriptor, error) {
	desc, call := blobDescriptor(dgst), blobCall(http.MethodGet, repo, dgst, "bytes=0-0")
	resp, err := c.do(ctx, call)
	if failed, ok := errors.AsType[*Error](err); ok && failed.Status == http.StatusRequestedRangeNotSatisfiable {
		// An empty blob has no first byte.
		if size, ok := unsatisfiedSize(failed.contentRange); ok && size == 0 {
			desc.Size = size
			return desc, nil
		}
	}
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer discard(resp.Body)
	if isPage(resp.Header) { // a login page is not a blob
		return ocispec.Descriptor{}, c.badAnswer(ctx, call, errPage)
	}
	desc.Size = lengthOf(resp)
	if resp.StatusCode == http.StatusPartialContent {
		if _, desc.Size, err = parseContentRange(resp.Header.Get("Content-Range")); err != nil {
			return ocispec.Descriptor{}, c.badAnswer(ctx, call, err)
		}
		if len(codingsOf(resp.Header)) > 0 {
			desc.Size = -1
		}
	}
	return desc, nil
}

// lengthOf returns the length of the content of an answer, and -1 if that is not known:
// the length of an encoded body may be another one.
func lengthOf(resp *http.Response) int64 {
	if len(codingsOf(resp.Header)) > 0 {
		return -1
	}
	return resp.ContentLength
}

// isPage reports whether an answer says that it is a page for browsers.
func isPage(header http.Header) bool { return oci.MediaType(header.Get("Content-Type")) == "text/html" }

// named is a digest that a HEAD by tag named to a client: another one may not read it.
type named struct {
	client string // the ID of its credential; empty: the configured one
	repo   string
	digest digest.Digest
}

// noteMissing notes that a manifest could not be read by its digest. If a HEAD named
// that digest a moment ago, as a proxy does that converts manifests, then the next
// question about a tag is a GET.
func (c *Client) noteMissing(ctx context.Context, repo string, ref oci.Reference, err error) {
	if answered(err) && c.named.has(named{c.loginOf(ctx).client, repo, ref.Digest()}) {
		c.distrust(&c.manifestHead, opManifest)
	}
}

// headSupport is the knowledge whether a registry's HEAD of one kind of content
// leads anywhere.
type headSupport struct {
	// uselessUntil has a monotonic time, which a change of the clock does not touch.
	uselessUntil atomic.Pointer[time.Time] // nil: HEADs were never useless
}

func (h *headSupport) usable() bool {
	until := h.uselessUntil.Load()
	return until == nil || !time.Now().Before(*until)
}

// disable notes that HEADs are useless, and reports whether that is news.
func (h *headSupport) disable() bool {
	now := time.Now()
	until := now.Add(noHeadTime)
	before := h.uselessUntil.Swap(&until)
	return before == nil || !now.Before(*before)
}

// distrust notes that HEADs are useless, for one kind of content.
func (c *Client) distrust(head *headSupport, op string) {
	if head.disable() {
		c.logger.Info("the upstream does not support HEAD properly. Weir sends GET for now, which may count against its rate limit. Check whether a proxy in front of it refuses HEAD",
			"upstream", c.host, "operation", op, "for", noHeadTime)
	}
}

// noteSilence notes a HEAD that ran into a time limit although there was a
// connection to the registry. The next question is a GET: a second one now would double the time
// that clients wait for a registry that is unavailable.
func (c *Client) noteSilence(head *headSupport, op string, err error) {
	failed, _ := errors.AsType[*Error](err)
	if failed == nil || !failed.Timeout() || failed.Op == opToken {
		return
	}
	broken, ok := errors.AsType[*transportError](failed.Err)
	if ok && (broken.connected || !strings.EqualFold(broken.host, c.host)) {
		c.distrust(head, op)
	}
}
