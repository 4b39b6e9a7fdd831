package namespace

import (
	"context"
	"errors"
	"time"

	"github.com/weirhq/weir/storage"
)

// A namespace with a TagSWR serves a tag whose check is overdue at once, and checks the tag
// behind the answer (stale-while-revalidate, RFC 5861 section 3):
//
//	 checked          TagTTL               TagTTL + TagSWR
//	    |--- a hit ------|--- a hit, and a check ---|--- checked before the answer
//
// The finding of the check is the answer of the next request: the manifest that the tag
// names now, or a failure. The check is a job, one for each tag. Checks have a pool of their
// own: they take about a round trip, and must not wait for jobs that complete downloads.

// errNotKept says that the manifest which a tag names could not be stored. Its clients get it
// from the upstream.
var errNotKept = errors.New("the manifest of the tag could not be stored")

// tagID is a tag of a repository.
type tagID struct {
	repo storage.RepoID
	tag  string
}

// tagCheck is the key of the job that checks a tag.
type tagCheck struct{ tagID }

func (c tagCheck) Block() string { return c.repo.Namespace }

func (c tagCheck) String() string { return "check the tag " + c.tag + " of " + c.repo.String() }

// failedCheck is a failure of a check that ran behind an answer.
type failedCheck struct {
	err   error
	words int       // the length of the error's text
	since time.Time // the last check of the tag that did not fail
}

func (f failedCheck) size(key tagID) int {
	return len(key.repo.Namespace) + len(key.repo.Name) + len(key.tag) + f.words
}

// isOverdue reports whether a tag that was checked at a time is served while it is checked
// again. A client whose own rights decide waits for its verdict, and a request that has come
// through another mirror must show a loop before it is answered.
func (n *Namespace) isOverdue(ctx context.Context, checked time.Time) bool {
	return n.spec.TagSWR > 0 && time.Since(checked)-n.spec.TagTTL < n.spec.TagSWR && !n.spec.OnBehalf && !n.mayLoop(ctx)
}

// answerFirst returns the outcome of an answer with a cached tag that is checked behind the
// answer. It reports false if the tag has to be checked before: the last check failed in a
// way that is not answered from the cache, or the pool has no place for another one.
func (n *Namespace) answerFirst(ctx context.Context, key lookupKey, known known) (o Outcome, ok bool) {
	id := tagID{key.repo, key.ref.Tag()}
	o = Outcome{Cache: Hit, Checked: known.checked, Overdue: max(time.Since(known.checked)-n.spec.TagTTL, 1)}
	// A record that has changed since the failure was checked by another request.
	if failed, found := n.cache.failedChecks.Get(id); found && failed.since.Equal(known.checked) {
		if o, ok = n.stale(ctx, key.repo, manifestProof, failed.err, known.checked); !ok {
			return Outcome{}, false
		}
	}
	key.op = getManifest // its answer is stored, so that a HEAD gets it next time
	return o, n.cache.checkPool.Submit(tagCheck{id}, func(ctx context.Context) error {
		n.checkBehind(ctx, key, known.checked)
		return nil // the next request finds out, and so does the log
	})
}

// checkBehind checks a tag that was checked before at a time, and keeps the finding for the
// next request.
func (n *Namespace) checkBehind(ctx context.Context, key lookupKey, before time.Time) {
	known := n.known(ctx, key.repo, key.ref)
	// While the job waited for its turn, another request checked the tag, or its record has gone.
	if known.state == absent || known.state == fresh || !known.checked.Equal(before) {
		return
	}
	known.state = due
	f, _, err := n.shareAsk(ctx, key, known, false)
	if ctx.Err() != nil {
		return // the mirror ends
	}
	switch {
	case err != nil:
		n.countCheck(checkFailed)
		// The answer has been given; only a tag that is gone is forgotten here.
		_, _, _ = n.fallBack(ctx, key, known, err)
	case f.desc.Digest == known.desc.Digest:
		n.countCheck(checkConfirmed)
	default:
		n.countCheck(checkMoved)
	}
	if err == nil && f.Cache == Passed {
		err = errNotKept
	}
	id := tagID{key.repo, key.ref.Tag()}
	if err == nil {
		n.cache.failedChecks.Remove(id)
	} else {
		n.cache.failedChecks.Add(id, failedCheck{err, len(err.Error()), before})
	}
}
