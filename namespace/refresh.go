package namespace

import (
	"context"

	"github.com/weirhq/weir/oci"
)

// Refresh asks the upstream which manifest a tag names, however recently the tag was checked, and
// although it may be immutable. The manifest is stored. A tag that is definitely gone is
// forgotten. Refresh never returns a stale answer, but the cached one stays if the upstream fails.
//
// Its errors are those of [Namespace.Manifest].
func (n *Namespace) Refresh(ctx context.Context, repo, tag string) (*Manifest, error) {
	ref := oci.ByTag(tag)
	if n.spec.Offline {
		return nil, n.offline(manifestName(ref))
	}
	key := lookupKey{n.repoID(repo), getManifest, ref.Question()}
	known := n.known(ctx, key.repo, ref)
	if known.state != absent {
		known.state = due
	}
	f, _, err := n.shareAsk(ctx, key, known, false)
	switch {
	case err != nil && known.state == due:
		_, _, _ = n.fallBack(ctx, key, known, err) // it forgets a tag that is gone
		return nil, err
	case err != nil:
		return nil, err
	case known.state == due:
		f = f.since(known, key.op)
	}
	return f.describe(), nil
}
