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
		{cluster.ErrUnreachable, "Check that cluster.advertise of that replica is an address that this one can reach, and that no firewall blocks its cluster.peer_port"},
		{cluster.ErrRefused, "Set the same cluster.secret on all replicas"},
		{cluster.ErrSecret, "Set the same cluster.secret and cache.redis.secret_key on all replicas, and a different cache.redis.key_prefix for each other fleet"},
		{cluster.ErrClock, "Synchronize the clocks of the two machines"},
		{cluster.ErrForeign, "Check that cluster.advertise of that replica leads to its cluster.peer_port"},
		{cluster.ErrVersion, "Both download independently until all replicas have the same version"},
		{cluster.ErrScheme, "Set cluster.certificate on all replicas, or on none"},
		{cluster.ErrTwin, "Set a different cluster.advertise on each replica"},
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
		return "Check that it is running, and that its cluster.advertise is correct"
	}
}
