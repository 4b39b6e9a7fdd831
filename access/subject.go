package access

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// Subject is a set of identities in a rule. An operator writes it as one of these:
//
//	alice             the user of that name
//	@ci               the members of a group
//	oidc:github       the tokens of an issuer
//	cert:node-*       the certificates with a matching common or alternative name
//	cidr:10.0.0.0/8   the clients of a network, with or without credentials
//	authenticated     all identities but anonymous ones
//	anonymous         requests without credentials
type Subject struct {
	kind    kind
	value   string
	network netip.Prefix // of byAddress
}

type kind int

const (
	byUser kind = iota + 1
	byGroup
	byProvider
	byCertificate
	byAddress
	byAuthenticated
	byAnonymous
)

// ParseSubject reads a subject. Its errors continue a sentence about the text.
func ParseSubject(text string) (Subject, error) {
	switch {
	case text == "":
		return Subject{}, errors.New("is empty; name a user, a @group, or one of cert:, cidr: and oidc: with its value")
	case text == "anonymous":
		return Subject{kind: byAnonymous}, nil
	case text == "authenticated":
		return Subject{kind: byAuthenticated}, nil
	case text[0] == '@':
		return valued(byGroup, text[1:])
	}
	scheme, value, found := strings.Cut(text, ":")
	if !found {
		return valued(byUser, text)
	}
	switch scheme {
	case "cert":
		if !doublestar.ValidatePattern(value) {
			return Subject{}, errors.New("is not a valid glob; write one such as cert:node-*.example.com")
		}
		return valued(byCertificate, value)
	case "cidr":
		network, err := parseNetwork(value)
		return Subject{kind: byAddress, network: network}, err
	case "oidc":
		return valued(byProvider, value)
	default:
		// A user name has no colon: Basic credentials end the name there.
		return Subject{}, errors.New("does not begin with cert:, cidr: or oidc:, which are the known kinds of rules")
	}
}

func valued(k kind, value string) (Subject, error) {
	if value == "" {
		return Subject{}, errors.New("has no value; write one after the colon")
	}
	return Subject{kind: k, value: value}, nil
}

// parseNetwork reads a range such as 10.0.0.0/8 or a single address.
func parseNetwork(text string) (netip.Prefix, error) {
	network, err := netip.ParsePrefix(text)
	if err != nil {
		address, err := netip.ParseAddr(text)
		if err != nil || address.Zone() != "" {
			return netip.Prefix{}, errors.New("is not a range of addresses; write one such as cidr:10.0.0.0/8")
		}
		network = netip.PrefixFrom(address, address.BitLen())
	}
	const mapped = 96 // bits before the IPv4 address in ::ffff:0:0/96
	if network.Addr().Is4In6() && network.Bits() >= mapped {
		network = netip.PrefixFrom(network.Addr().Unmap(), network.Bits()-mapped)
	}
	if network != network.Masked() {
		return netip.Prefix{}, fmt.Errorf("has address bits beyond its prefix; write cidr:%s, or the address alone", network.Masked())
	}
	return network, nil
}

// User returns the user that the subject names, if it is one.
func (s Subject) User() (string, bool) { return s.value, s.kind == byUser }

// IsCertificate reports whether the subject stands for client certificates.
func (s Subject) IsCertificate() bool { return s.kind == byCertificate }

// Group returns the group that the subject names, if it is one.
func (s Subject) Group() (string, bool) { return s.value, s.kind == byGroup }

// Provider returns the issuer of tokens that the subject names, if it is one.
func (s Subject) Provider() (string, bool) { return s.value, s.kind == byProvider }

func (s Subject) isNetwork() bool { return s.kind == byAddress }

// matches reports whether an identity is in the set. The zero Subject is empty.
func (s Subject) matches(i *Identity) bool {
	switch s.kind {
	case byUser:
		return i.User == s.value
	case byGroup:
		return slices.Contains(i.Groups, s.value)
	case byProvider:
		return i.OIDC != nil && i.OIDC.Provider == s.value
	case byCertificate:
		return i.Certificate != nil && i.Certificate.has(s.value)
	case byAddress:
		return s.network.Contains(i.Address.Unmap())
	case byAuthenticated:
		return !i.Anonymous
	case byAnonymous:
		return i.Anonymous
	default:
		return false
	}
}
