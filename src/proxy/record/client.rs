//! Whose a request is, where proxies that are believed stand before herd.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use ipnet::IpNet;

use crate::proxy::fields::X_FORWARDED_FOR;

/// The client, by the word of proxies that are believed: the last address that is not one of theirs.
pub(super) fn forwarded_for(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let lists = headers.get_all(&X_FORWARDED_FOR).iter().collect::<Vec<_>>();
    let hops = lists
        .into_iter()
        .rev()
        .flat_map(|list| list.as_bytes().rsplit(|byte| *byte == b','));
    let mut nearest = peer;
    for hop in hops {
        // What cannot be read was not written by a proxy that can be believed.
        let Some(hop) = std::str::from_utf8(hop).ok().and_then(address) else {
            break;
        };
        nearest = hop;
        if !trusted.iter().any(|net| net.contains(&hop)) {
            break;
        }
    }
    nearest
}

/// Some proxies write the port, too.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let alone = text.parse::<IpAddr>().ok();
    let address = alone.or_else(|| text.parse().ok().map(|with_port: SocketAddr| with_port.ip()));
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_client_is_the_last_whom_no_trusted_proxy_vouches_for_as_one_of_them() {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let peer = IpAddr::from([10, 0, 0, 1]);
        for (fields, client) in [
            (&[][..], "10.0.0.1"),
            (&["1.2.3.4"], "1.2.3.4"),
            (&["6.6.6.6, 1.2.3.4, 10.0.0.2"], "1.2.3.4"),
            (&["6.6.6.6", "1.2.3.4,10.0.0.2"], "1.2.3.4"),
            (&["1.2.3.4:5678"], "1.2.3.4"),
            (&["[2001:db8::1]:5678"], "2001:db8::1"),
            (&["::ffff:1.2.3.4"], "1.2.3.4"),
            (&["1.2.3.4, unknown"], "10.0.0.1"),
            (&["1.2.3.4, what, 10.0.0.2"], "10.0.0.2"),
            (&["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            (&[""], "10.0.0.1"),
        ] {
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append(&X_FORWARDED_FOR, HeaderValue::from_static(field));
            }
            let found = forwarded_for(peer, &headers, &trusted);
            assert_eq!(found, client.parse::<IpAddr>().unwrap(), "{fields:?}");
        }
    }
}
