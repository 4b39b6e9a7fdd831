package access

import (
	"context"
	"encoding/base64"
	"errors"
)

// Beside is the sender of a request to a block whose upstream decides about its clients. The
// mirror's own accounts stand beside those of the upstream there.
type Beside struct {
	Identity *Identity // towards the mirror: the upstream's credentials are none
	// Upstreams is the Authorization for the upstream. It is empty if the credentials of the
	// request were for the mirror.
	Upstreams []string
	// Guess is set if the password of one of the mirror's accounts was wrong, and says why.
	// Upstreams is then a decoy (see [Grants.Decoy]).
	Guess error
	// Refused is set if the request has a token of the mirror or of one of its issuers that
	// is not valid, and says why.
	Refused error
}

// IdentifyBeside is [Rules.Identify] for a block whose upstream decides. An Authorization
// header is for the upstream, unless it names an account of the mirror or has a token of the
// mirror or of one of its issuers. If it is not valid, the identity is that of a request
// without it.
//
// The steps are the same for each name: its password is compared with a hash, and a refused
// one goes on to the upstream, as a decoy if the name is the mirror's. So neither the answer
// nor its time reveals which names are.
func (r *Rules) IdentifyBeside(ctx context.Context, p Presented, grants *Grants) (Beside, error) {
	shown, err := ParseAuthorization(p.Authorization)
	switch {
	// The upstream's side refuses a header that cannot be read.
	case err != nil, shown.Basic.User == "" && !r.knowsToken(shown.Bearer):
		return Beside{Identity: r.withoutHeader(p), Upstreams: p.Authorization}, nil
	}
	found, err := r.credentials(ctx, p)
	decoy := grants.Decoy(shown.Basic)
	_, invalid := errors.AsType[*CredentialsError](err)
	switch {
	case err == nil:
		return Beside{Identity: r.counted(found, p)}, nil
	case !invalid:
		r.countFailure(ctx, found.method, err)
		return Beside{}, err
	case r.knowsToken(shown.Bearer), r.knowsToken(shown.Basic.Password):
		r.countFailure(ctx, found.method, err)
		return Beside{Identity: r.identityOf(r.memory.nobody, p), Refused: err}, nil
	// A token that holds the upstream's credential may come as the password of any user.
	case r.accounts.byUser[shown.Basic.User] != nil && !IsGrant(shown.Basic.Password):
		r.countFailure(ctx, found.method, err)
		header := "Basic " + base64.StdEncoding.EncodeToString([]byte(decoy.User+":"+decoy.Password))
		return Beside{Identity: r.identityOf(r.memory.nobody, p), Upstreams: []string{header}, Guess: err}, nil
	default:
		return Beside{Identity: r.withoutHeader(p), Upstreams: p.Authorization}, nil
	}
}

// withoutHeader returns the identity of a request whose Authorization header is not for the
// mirror.
func (r *Rules) withoutHeader(p Presented) *Identity { return r.counted(r.memory.nobody, p) }
