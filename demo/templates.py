"""Sentence templates of the demo's customer messages, by intent. The last of each intent is never trained on.

Slots: {order} and {date} are what a ticket has to copy and convert; {item}, {colour}, {other} (another
colour), {size} and {street} are noise, and {street} brings numbers that are no order id.
"""

from __future__ import annotations

TEMPLATES: dict[str, tuple[str, ...]] = {
    "exchange": (
        "swap the {item} in {order} for a {colour} one, I bought it on {date}.",
        "I'd like to exchange the {item} from order {order}, bought {date}, for a {size} size.",
        "The {item} I got on {date} ({order}) is too small, please send a larger one instead.",
        "Wrong colour! {order} of {date}: I'd rather have the {item} in {colour}.",
        "Could I trade my {item} for another model? Order {order}, {date}.",
        "Please replace the broken {item} in {order}; I bought it on {date}.",
        "{order}, bought {date}: the {item} doesn't fit, I want another size.",
        "I want a {colour} {item} in place of the {other} one from {order} ({date}).",
        "My {item} arrived damaged on {date}. Send me a replacement for {order}.",
        "The {item} of {date} came in {other}. Can I exchange it for {colour}? It's {order}.",
    ),
    "refund": (
        "I want my money back for {order}, bought on {date}.",
        "Please refund the {item} from {order}; I paid on {date}.",
        "The {item} I bought on {date} was rubbish. Refund {order}, please.",
        "How do I get a refund for {order}? It was ordered on {date}.",
        "I sent back the {item} from {order} on {date} and still wait for my refund.",
        "You charged me twice for {order} on {date}. Please return the money.",
        "{order} from {date}: the {item} broke, I'd like to be reimbursed.",
        "I am not happy with the {item} ({order}, {date}) and want the money returned.",
        "Kindly reimburse me for {order}. The purchase was on {date}.",
        "The {item} of {date} is nothing like the picture. I expect a full refund for {order}.",
    ),
    "cancel": (
        "Please cancel {order}, I placed it on {date}.",
        "I ordered the {item} by mistake on {date}. Cancel {order}.",
        "I no longer need the {item}. Can you cancel order {order} of {date}?",
        "Stop {order}, please, I don't want the {item} any more. It's from {date}.",
        "{order} ({date}): I changed my mind, don't ship it.",
        "Is it too late to call off order {order} from {date}?",
        "I found the {item} cheaper elsewhere, so cancel {order} that I made on {date}.",
        "Don't send the {item} I ordered on {date}; order {order} should be stopped.",
        "Cancellation of {order}, ordered {date}, please.",
        "I changed my mind about the {item} ordered on {date}. Please cancel it, number {order}.",
    ),
    "track": (
        "Where is {order}? I ordered it on {date}.",
        "My {item} hasn't arrived yet. Order {order}, {date}.",
        "When will {order} be delivered? I bought the {item} on {date}.",
        "Still waiting for the {item} from {date}, order {order}. Any news?",
        "Can you tell me the delivery status of {order}, placed {date}?",
        "{order} of {date} has not shown up. Has it been shipped?",
        "Tracking for {order} doesn't work, I ordered the {item} on {date}.",
        "Has my {item} been sent? I ordered on {date}, number {order}.",
        "The parcel for {order} is late: it was due on {date}.",
        "I've been waiting for my {item} since {date}. Where is order {order} now?",
    ),
    "address": (
        "Please ship {order} to {street} instead. I ordered it on {date}.",
        "I moved! Change the delivery address of {order} ({date}) to {street}.",
        "The address on {order} from {date} is wrong, it should be {street}.",
        "Can the {item} I ordered on {date} go to my office? Order {order}, {street}.",
        "Update the shipping address for {order}: {street}. Ordered {date}.",
        "{order}, placed {date}: please deliver to {street}, not to my old home.",
        "I typed the wrong street for {order} on {date}. It is {street}.",
        "Send my {item} to my new address, {street}. It's {order} from {date}.",
        "Could you redirect {order} of {date} to {street}?",
        "I don't live at the address on {order} any more. It's {street} now. Bought {date}.",
    ),
    "invoice": (
        "Could you send me the invoice for {order}, bought on {date}?",
        "I need a receipt for the {item} I bought on {date}. Order {order}.",
        "The invoice for {order} from {date} never reached me.",
        "Please e-mail the bill for {order}; the order date is {date}.",
        "My accountant asks for the invoice of {order} ({date}).",
        "I need a VAT receipt for {order}, paid {date}.",
        "There is a wrong name on the invoice for {order} of {date}. Please correct it.",
        "{order}, {date}: no receipt in the box. Can I have one?",
        "For my tax return I need the bill for the {item}, {order}, {date}.",
        "I lost the receipt for my {item} of {date}. Could you send it again? {order}.",
    ),
}

# How soon, as customers say it. Nothing said is "normal".
PRIORITIES: dict[str, tuple[str, ...]] = {
    "low": ("No rush.", "Take your time.", "It can wait."),
    "normal": ("", "", "Thanks!", "Thank you."),
    "high": ("It's urgent!", "I need this today.", "ASAP please.", "Please hurry."),
}

GREETINGS = ("", "", "", "Hi,", "Hello,", "Good morning,", "Hey there,")
ITEMS = ("jacket", "lamp", "kettle", "backpack", "keyboard", "rug", "tent", "mug", "chair", "headset")
COLOURS = ("blue", "red", "green", "black", "white", "grey")
SIZES = ("small", "medium", "large")
STREETS = ("12 Oak Lane", "7 Mill Road", "48 High Street", "3 Station Square", "95 Park Avenue")
