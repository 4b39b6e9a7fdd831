package zone_test

import (
	"net/netip"
	"testing"

	"github.com/weirhq/weir/internal/zone"
)

func TestOf(t *testing.T) {
	for addr, want := range map[string]zone.Zone{
		"8.8.8.8": zone.Public, "1.1.1.1": zone.Public, "100.63.255.255": zone.Public, "100.128.0.0": zone.Public,
		"172.15.255.255": zone.Public, "172.32.0.0": zone.Public, "198.17.255.255": zone.Public, "223.255.255.255": zone.Public,
		"2606:4700::1111": zone.Public, "2a00:1450::1": zone.Public, "::ffff:8.8.8.8": zone.Public, "64:ff9b::8.8.8.8": zone.Public, "2002:808:808::1": zone.Public,

		"127.0.0.1": zone.Loopback, "127.255.255.254": zone.Loopback, "0.0.0.0": zone.Loopback, "0.1.2.3": zone.Loopback,
		"::1": zone.Loopback, "::": zone.Loopback, "::ffff:127.0.0.1": zone.Loopback, "::ffff:0.0.0.0": zone.Loopback, "::127.0.0.1": zone.Loopback,
		"64:ff9b::127.0.0.1": zone.Loopback, "64:ff9b:1::127.0.0.1": zone.Loopback, "2002:7f00:1::1": zone.Loopback, "::ffff:0:127.0.0.1": zone.Loopback,
		"2a00::5efe:127.0.0.1": zone.Loopback, "2a00::200:5efe:127.0.0.1": zone.Loopback,

		"10.0.0.1": zone.Private, "172.16.0.1": zone.Private, "172.31.255.255": zone.Private, "192.168.1.1": zone.Private,
		"100.64.0.1": zone.Private, "100.127.255.255": zone.Private, "198.18.0.1": zone.Private, "198.19.255.255": zone.Private,
		"224.0.0.1": zone.Private, "239.255.255.250": zone.Private, "240.0.0.1": zone.Private, "255.255.255.255": zone.Private,
		"192.0.2.1": zone.Private, "192.0.0.8": zone.Private, "fc00::1": zone.Private, "fd12:3456::1": zone.Private, "fec0::1": zone.Private,
		"ff02::1": zone.Private, "2001:db8::1": zone.Private, "2001::1": zone.Private, "100::1": zone.Private, "5f00::1": zone.Private,
		"::ffff:10.0.0.1": zone.Private, "64:ff9b::10.0.0.1": zone.Private, "64:ff9b:1::8.8.8.8": zone.Private, "2002:a00:1::1": zone.Private, "::8.8.8.8": zone.Private,

		"169.254.169.254": zone.LinkLocal, "169.254.0.1": zone.LinkLocal, "fe80::1": zone.LinkLocal, "fe80::1%eth0": zone.LinkLocal, "febf::1": zone.LinkLocal,
		"::ffff:169.254.169.254": zone.LinkLocal, "64:ff9b::169.254.169.254": zone.LinkLocal, "2002:a9fe:a9fe::1": zone.LinkLocal, "::169.254.169.254": zone.LinkLocal,
		"fd00:ec2::254": zone.LinkLocal, "100.100.100.200": zone.LinkLocal, "192.0.0.192": zone.LinkLocal, "168.63.129.16": zone.LinkLocal,
	} {
		if got := zone.Of(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s is %v, want %v", addr, got, want)
		}
		if got := zone.OfName(addr); got != want {
			t.Errorf("the name %s is %v, want %v", addr, got, want)
		}
	}
}

func TestOfName(t *testing.T) {
	for host, want := range map[string]zone.Zone{
		"registry-1.docker.io": zone.Public, "ghcr.io": zone.Public, "GHCR.IO.": zone.Public, "xn--bcher-kva.example": zone.Public, "localhost.example": zone.Public,
		"1password.com": zone.Public, "internal.example.com": zone.Public,
		"localhost": zone.Loopback, "LocalHost.": zone.Loopback, "a.b.localhost": zone.Loopback, "localhost.localdomain": zone.Loopback, "ip6-loopback": zone.Loopback,
		"": zone.Private, "minio": zone.Private, "minio.": zone.Private, "registry.corp.internal": zone.Private, "nas.local": zone.Private, "x.home.arpa": zone.Private,
		"kube-dns.kube-system.svc.cluster.local": zone.Private,
		"127.1":                                  zone.Private, "2130706433": zone.Private, "0x7f000001": zone.Private, "0177.0.0.1": zone.Private, "127.0.0.0x1": zone.Private, "10.0.0.1.": zone.Private,
		"１２７.0.0.1": zone.Private, "127.0.0.１": zone.Private, "loc\u00adalhost.example": zone.Private,
		"metadata.google.internal": zone.LinkLocal, "Metadata.Google.Internal.": zone.LinkLocal, "metadata": zone.LinkLocal, "169.254.169.254": zone.LinkLocal,
	} {
		if got := zone.OfName(host); got != want {
			t.Errorf("%q is %v, want %v", host, got, want)
		}
	}
}
