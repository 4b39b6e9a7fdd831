package app

import (
	"crypto/x509"
	"errors"

	"github.com/weirhq/weir/cluster"
)

// replicaAdvice returns the sentence that follows a warning about another replica: the remedy
// for an error.
func replicaAdvice(err error) string {
	for _, answer := range []struct {
		reason error
		remedy string
	}{
		{cluster.ErrUnreachable, "Check that cluster.advertise of that replica is an address that this one reaches, and that no firewall closes its cluster.peer_port"},
		{cluster.ErrRefused, "Set the same cluster.secret at all replicas"},
		{cluster.ErrSecret, "Set the same cluster.secret and cache.redis.secret_key at all replicas, and another cache.redis.key_prefix for each other fleet"},
		{cluster.ErrClock, "Synchronise the clocks of the two machines"},
		{cluster.ErrForeign, "Check that cluster.advertise of that replica leads to its cluster.peer_port"},
		{cluster.ErrVersion, "The two download by themselves until all replicas are updated"},
		{cluster.ErrScheme, "Set cluster.certificate at all replicas, or at none"},
		{cluster.ErrTwin, "Set cluster.advertise of each replica to an address of its own"},
	} {
		if errors.Is(err, answer.reason) {
			return answer.remedy
		}
	}
	_, isUnknown := errors.AsType[x509.UnknownAuthorityError](err)
	_, isHost := errors.AsType[x509.HostnameError](err)
	switch {
	case isUnknown:
		return "Set cluster.client_ca_bundle to the authority that signed the certificates of all replicas"
	case isHost:
		return "Issue cluster.certificate of that replica for the host of its cluster.advertise"
	default:
		return "Check that it runs, and that its cluster.advertise is right"
	}
}
