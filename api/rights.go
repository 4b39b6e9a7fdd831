package api

import (
	"context"
	"net/http"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/namespace/traffic"
	"github.com/weirhq/weir/oci"
)

// Question is the request below /v2/ by which a client would get a part of a repository. Access
// rules may read all of it, so the API tells of a part only if they permit that request.
type Question struct {
	Action    access.Action
	Reference string        // tag or digest of a manifest
	Digest    digest.Digest // of a manifest by its digest, of a blob, or of the subject of referrers
}

// mayPull reports whether the client may pull a manifest of a repository.
func (h *Handler) mayPull(ctx context.Context, r Repository, ref oci.Reference) bool {
	return h.opts.Names.Permits(ctx, r, Question{access.GetManifest, ref.String(), ref.Digest()})
}

// mayList reports whether the client may list the tags of a repository.
func (h *Handler) mayList(ctx context.Context, r Repository) bool {
	return h.opts.Names.Permits(ctx, r, Question{Action: access.ListTags})
}

// errUnlisted refuses the tags of a repository that the client may know of.
func errUnlisted() error {
	return &Failure{http.StatusForbidden, "DENIED", "the access rules of the mirror do not let this client list the tags of the repository"}
}

// referenceOf returns the tag or digest of a part of a repository.
func referenceOf(part namespace.Selection) oci.Reference {
	if part.Tag != "" {
		return oci.ByTag(part.Tag)
	}
	return oci.ByDigest(part.Digest)
}

// questionOf returns a request that was answered in the terms of access rules: another client is told of it
// only if it may send the same request.
func questionOf(one traffic.Request) Question {
	switch one.Operation {
	case "tags":
		return Question{Action: access.ListTags}
	case "blob":
		return Question{Action: access.GetBlob, Digest: digest.Digest(one.Reference)}
	case "referrers":
		return Question{Action: access.GetReferrers, Digest: digest.Digest(one.Reference)}
	}
	q := Question{Action: access.GetManifest, Reference: one.Reference}
	if strings.Contains(one.Reference, ":") {
		q.Digest = digest.Digest(one.Reference)
	}
	return q
}
